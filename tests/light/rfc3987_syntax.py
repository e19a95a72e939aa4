"Stands before a package that jsonschema takes where it is there: every process of Ray needs two seconds to load it."
raise ImportError('left out')
