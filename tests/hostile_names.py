"""One table of names that break outputs: of classes, of files. Every output is tried with all of them."""
NAMES = {  # of classes and negative labels: texts that a person may give
    'dollars': 'cost $5 and $6', 'formula': r'$\frac{a}{b$', 'html': '<b>bold</b> <script>alert(1)</script>',
    'entity': 'R&amp;D', 'quotes': '"double" and \'single\'',
    'markdown': '[link](http://x.invalid) *star* `code` | pipe', 'heading': '# title', 'yaml': 'a: b #c {d}',
    'equals': '=HYPERLINK("http://x.invalid")', 'plus': '+1+1',
    'minus': '-2+3', 'at': '@SUM(1)', 'comma': 'salt, pepper; "oil"', 'percent': '100 % {} %s',
    'backslash': r'C:\new\table', 'arabic': 'قطة', 'chinese': '猫', 'emoji': '🐈‍⬛', 'long': 'x'*200}

BROKEN = {  # that no class may have
    'newline': 'a\nb', 'return': 'a\rb', 'tab': 'a\tb', 'bell': 'a\ab', 'nothing': 'a\u200bb',
    'right to left': 'a\u202eb', 'line separator': 'a\u2028b', 'half a letter': 'a\ud800b'}

FILES = {  # of files: all that a file system takes, an ending is put behind
    **{key: name.replace('/', ':') for key, name in NAMES.items()}, 'newline': 'a\nb', 'return': 'a\rb', 'tab': 'a\tb',
    'bell': 'a\ab', 'bytes': 'caf\udce9', 'blank': ' ', 'option': '--help'}
