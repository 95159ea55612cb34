"""`tokendream diagnose`: each part of a trained agent measured on games that it was not trained on.

`vision` measures the tokenizer, `world` the world model, `control` the controller; each returns `Figure`s, which say
what a healthy value looks like. `run` plays the games and puts the parts together; the page is `report.diagnosis`.
"""
