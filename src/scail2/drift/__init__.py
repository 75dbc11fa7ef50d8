"""How far a long video drifts from its beginning: measuring it, drawing it and matching colours against it."""
