"""How wide a row is: saliency, popularity bands, plans under a budget of bytes, and their judgement."""
