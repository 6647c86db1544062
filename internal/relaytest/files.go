package relaytest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// Glob returns the files that match a pattern. It fails the test if there are none.
func Glob(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files match %s: %v", pattern, err)
	}
	return files
}

// ReadFile returns the content of a file.
func ReadFile(t testing.TB, file string) []byte {
	t.Helper()
	body, err := os.ReadFile(file)
	Check(t, err)
	return body
}

// WriteFile writes a file.
func WriteFile(t testing.TB, file, text string) {
	t.Helper()
	Check(t, os.WriteFile(file, []byte(text), 0o644))
}

// CheckGolden compares a result with the content of a golden file. With update, it
// writes the file instead.
func CheckGolden(t testing.TB, file, got string, update bool) {
	t.Helper()
	if update {
		WriteFile(t, file, got)
	} else if want := string(ReadFile(t, file)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// CheckRoundTrip checks that a value survives encoding as JSON and strict decoding.
// Caddy keeps only the JSON of a config.
func CheckRoundTrip[T any](t testing.TB, value T) {
	t.Helper()
	out, err := json.Marshal(value)
	Check(t, err)
	var back T
	decoder := json.NewDecoder(bytes.NewReader(out))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&back); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if again, _ := json.Marshal(back); !bytes.Equal(out, again) {
		t.Fatalf("got %s after a round trip, want %s", again, out)
	}
}
