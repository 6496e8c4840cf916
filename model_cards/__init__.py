"""Model cards and their template, installed with the package."""
