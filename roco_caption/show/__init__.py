"""What the notebook shows: figures, styled tables, your own images, and the model card."""
