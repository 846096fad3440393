"""What a model is and whether it is read rightly; what work on it will cost."""
