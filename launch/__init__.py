"""Sweeps over the axes, and what runs beside training: the dashboard."""
