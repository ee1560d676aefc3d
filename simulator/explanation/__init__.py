"""What a result means: what would help, what it rests on, how well such runs were predicted, what objectives allow."""
