package fleet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestMarks(t *testing.T) {
	list := parseMarks([]byte("a 2\nb 1\na 1\nc 7"))
	for last, want := range map[string][]string{"a 2": nil, "b 1": {"a"}, "a 1": {"a", "b"}, "c 7": {"a", "b"}} {
		if got, ok := list.since(last); !ok || !slices.Equal(got, want) {
			t.Errorf("since %q: %v %v, want %v", last, got, ok, want)
		}
	}
	if _, ok := list.since("c 6"); ok {
		t.Error("a mark that is gone was found")
	}
	if list.newest() != "a 2" || marks(nil).newest() != "" {
		t.Error("newest mark")
	}
	if got := parseMarks([]byte(strings.Repeat("x 1\n", 1000))); len(got) != maxMarks {
		t.Errorf("%d marks", len(got))
	}
	if got := parseMarks([]byte("\n\n")); len(got) != 0 {
		t.Errorf("%q", got)
	}
	_, _ = parseMarks([]byte("no number")).since("x")
}

// oneKey is a storage with one key.
type oneKey struct {
	Storage
	text string
}

func (s *oneKey) Load(context.Context, string) ([]byte, error) { return []byte(s.text), nil }

func (s *oneKey) Store(_ context.Context, _ string, text []byte) error {
	s.text = string(text)
	return nil
}

// A node marks its change again if its mark is lost, also together with the next older
// one, and not if newer marks have pushed it out.
func TestLostMarks(t *testing.T) {
	var full []string
	for i := range maxMarks {
		full = append(full, fmt.Sprintf("c %d", i))
	}
	for name, test := range map[string]struct {
		before, after string
		again         bool
	}{
		"kept":                        {"b 1\nx 1", "me 1\nb 1\nx 1", false},
		"lost":                        {"b 1\nx 1", "c 1\nb 1\nx 1", true},
		"lost with the next older":    {"b 1\nx 1", "c 1\nx 1", true},
		"lost with all":               {"b 1\nx 1", "c 1", true},
		"lost from an empty key":      {"", "c 1", true},
		"pushed out":                  {"b 1\nx 1", strings.Join(full, "\n"), false},
		"pushed out of an empty key":  {"", strings.Join(full, "\n"), false},
		"lost, with an old mark left": {"b 1\nx 1", strings.Join(append(full[1:], "x 1"), "\n"), true},
	} {
		t.Run(name, func(t *testing.T) {
			s := &oneKey{text: test.before}
			m := &Member{id: "me", storage: s}
			if err := m.mark(t.Context(), start); err != nil || !strings.HasPrefix(s.text, "me 1") {
				t.Fatalf("%q, %v", s.text, err)
			}
			s.text = test.after
			if err := m.confirm(t.Context(), parseMarks([]byte(s.text)), start); err != nil {
				t.Fatal(err)
			}
			if again := strings.HasPrefix(s.text, "me 2"); again != test.again {
				t.Errorf("marked again: %v, want %v", again, test.again)
			}
		})
	}
}
