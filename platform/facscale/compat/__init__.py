"""Every touch of a private API of another library: one function each, with the versions it was tried with."""
