"""What cross-validation is made of: whom each fold tests on, how folds run, and what they tell together."""
