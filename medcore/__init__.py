"""medcore: rigorous medical-imaging studies as notebooks, on your images or on built-in phantoms.

Data flows down one way through the rooms of the package:
``data`` -> ``models`` -> ``training`` -> ``evaluation`` -> ``plots`` -> ``reporting`` -> ``cli``.

For research and teaching; **not for clinical use**.
"""

__version__ = "0.1.0"
