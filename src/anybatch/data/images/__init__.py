"""Images to learn from: sets of them in the layouts that people have, decoded, cropped, normalised and mixed."""
