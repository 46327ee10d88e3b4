"""What the scripts of the figures share."""
