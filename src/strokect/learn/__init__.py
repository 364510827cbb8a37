"""Learning: samples, augmentation, losses, training and prediction. Networks come as arguments."""
