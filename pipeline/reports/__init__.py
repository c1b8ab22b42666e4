"""Parts of HTML reports: pages, tables, plots and contact sheets."""
