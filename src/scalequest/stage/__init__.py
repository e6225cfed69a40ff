"""The folder of a stage with its blocks and receipt, and the code that every stage's script shares."""
