"""Building blocks of reports: HTML pages, tables, plots and contact sheets."""
