"""How well a model does: answers and their scores, and right classes of images."""
