"""Comparison of runs: their records, statistics over seeds, tables, figures and summaries, without torch."""
