package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// A part of a document that is generated stands between two lines with its name.
func beginMark(part string) string { return "<!-- bench " + part + ": begin -->\n" }
func endMark(part string) string   { return "<!-- bench " + part + ": end -->" }

// rewrite replaces the generated parts of a file. A file that does not exist is
// made of all parts.
func rewrite(file string, parts map[string]string) error {
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	document := string(text)
	for part, content := range parts {
		if document, err = insert(document, part, content); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return os.WriteFile(file, []byte(document), 0o644)
}

// insert replaces a part of a document.
func insert(document, part, content string) (string, error) {
	before, rest, begins := strings.Cut(document, beginMark(part))
	_, after, ends := strings.Cut(rest, endMark(part))
	if !begins || !ends {
		return "", fmt.Errorf("missing the line %q or %q", strings.TrimSpace(beginMark(part)), endMark(part))
	}
	return before + beginMark(part) + content + endMark(part) + after, nil
}
