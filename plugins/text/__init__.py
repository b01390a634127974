"""Text: files of lines, rows and fields (`files`), and what turns their characters into ids and back (`front`)."""
