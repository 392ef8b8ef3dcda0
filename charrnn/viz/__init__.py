"""Plots, reports and videos of runs; imports no torch."""
