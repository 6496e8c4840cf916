"""What a file or a piece of code imports."""

import ast
from pathlib import Path


def imports(code: Path | str) -> list[tuple[str, int, list[str]]]:
    """Module, level (dots) and names of every import, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(code.read_text(encoding="utf-8") if isinstance(code, Path) else code)):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level, [alias.name for alias in node.names]))
    return found
