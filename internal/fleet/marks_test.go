package fleet

import (
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
