"""What a reader sees of results: tables, plots, pages, comparisons with other runs and with papers."""
