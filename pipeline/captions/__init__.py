"""Prompt banks, and which prompt stands beside a sample."""
