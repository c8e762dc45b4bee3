"""One file a subject. Every function under `@check` in a file here is asked; no list names them."""
