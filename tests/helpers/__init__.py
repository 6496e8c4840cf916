"""What tests of several rooms use: tiny models, short runs, a Hub of their own."""
