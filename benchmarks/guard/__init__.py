"""A guard against slower framing that does not flake: instructions are counted, not time measured."""
