"""Images to learn from: sets in common layouts, decoded, cropped, normalized and mixed."""
