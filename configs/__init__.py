"""Run configurations, installed with the package."""
