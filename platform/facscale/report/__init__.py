"""Presentation of results: tables, plots, pages, and comparisons with other runs and with papers."""
