"""The stages (render, train, evaluate, crossval, predict, export, synth, app) and the libraries that they share."""
