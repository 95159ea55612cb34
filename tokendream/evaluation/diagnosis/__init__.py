"""Each part of a trained agent measured on games that it was not trained on.

`vision` measures the tokenizer, `world` the world model, `control` the controller; each returns its `PartFigures`,
which say what a healthy value looks like. `reports.diagnose` plays the games and writes the page.
"""
