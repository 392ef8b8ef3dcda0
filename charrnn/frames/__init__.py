"""The frame predictor: model, data, generation and measurements."""
