package caddyfile

import (
	"slices"
	"strings"
)

// suggestKey returns the known key of a YAML file that key is probably a misspelling
// of, or "". The option cooldown has another name there.
func suggestKey(key string, known []string) string {
	if key == "cooldown" && slices.Contains(known, "backend_cooldown") {
		return "backend_cooldown"
	}
	return Nearest(key, known)
}

// Nearest returns the known word that word is probably a misspelling of, or "".
func Nearest(word string, known []string) string {
	best, least := "", 3
	for _, k := range known {
		if d := editDistance(strings.ToLower(word), strings.ToLower(k)); d < least && d < len(k)/2 {
			best, least = k, d
		}
	}
	return best
}

// editDistance returns the number of letters to add, drop or change to turn a
// into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
