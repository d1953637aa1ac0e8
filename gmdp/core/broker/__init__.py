"""The decisions of a broker: how it handles each message, and what it does as time passes."""
