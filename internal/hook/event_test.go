package hook

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
)

// at is in a time zone other than UTC and has nanoseconds, which are not printed.
var at = time.Date(2024, 1, 2, 3, 4, 5, 60_700_899, time.FixedZone("", 2*60*60))

// A command gets exactly these variables. The JSON text is the output of Python's
// json.dumps for the same values.
func TestEnvironment(t *testing.T) {
	for _, test := range []struct {
		name  string
		event Event
		want  []string
	}{
		{
			"failed",
			Event{BackendFailed, "web", 2, 1, 3, at, &Backend{"example.com", 80, "192.0.2.7"}},
			[]string{
				"RELAY_AVAILABLE_COUNT=1",
				"RELAY_BACKEND_HOST=example.com",
				"RELAY_BACKEND_IP=192.0.2.7",
				"RELAY_BACKEND_PORT=80",
				`RELAY_EVENT_JSON={"event": "backend_failed", "service": "web", "failure_count": 2, "available_count": 1, "total_count": 3, "timestamp": "2024-01-02T01:04:05.060700+00:00", "backend": {"host": "example.com", "port": 80, "ip": "192.0.2.7"}}`,
				"RELAY_EVENT_TYPE=backend_failed",
				"RELAY_FAILURE_COUNT=2",
				"RELAY_SERVICE_NAME=web",
				"RELAY_TIMESTAMP=2024-01-02T01:04:05.060700+00:00",
				"RELAY_TOTAL_COUNT=3",
			},
		},
		{
			"no address",
			Event{BackendRecovered, "web", 0, 3, 3, at, &Backend{"::1", 65535, ""}},
			[]string{
				"RELAY_AVAILABLE_COUNT=3",
				"RELAY_BACKEND_HOST=::1",
				"RELAY_BACKEND_PORT=65535",
				`RELAY_EVENT_JSON={"event": "backend_recovered", "service": "web", "failure_count": 0, "available_count": 3, "total_count": 3, "timestamp": "2024-01-02T01:04:05.060700+00:00", "backend": {"host": "::1", "port": 65535, "ip": null}}`,
				"RELAY_EVENT_TYPE=backend_recovered",
				"RELAY_FAILURE_COUNT=0",
				"RELAY_SERVICE_NAME=web",
				"RELAY_TIMESTAMP=2024-01-02T01:04:05.060700+00:00",
				"RELAY_TOTAL_COUNT=3",
			},
		},
		{
			"no backend",
			Event{AllBackendsUnavailable, `a "b" \ <ü> 😀`, 0, 0, 3, at.Truncate(time.Second), nil},
			[]string{
				"RELAY_AVAILABLE_COUNT=0",
				`RELAY_EVENT_JSON={"event": "all_backends_unavailable", "service": "a \"b\" \\ <ü> 😀", "failure_count": 0, "available_count": 0, "total_count": 3, "timestamp": "2024-01-02T01:04:05.000000+00:00"}`,
				"RELAY_EVENT_TYPE=all_backends_unavailable",
				"RELAY_FAILURE_COUNT=0",
				`RELAY_SERVICE_NAME=a "b" \ <ü> 😀`,
				"RELAY_TIMESTAMP=2024-01-02T01:04:05.000000+00:00",
				"RELAY_TOTAL_COUNT=3",
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("HOOK_TEST_OWN", "is kept")
			t.Setenv("RELAY_BACKEND_IP", "of the event that started this process")
			t.Setenv("RELAY_OTHER", "is kept too")
			r := newRig(t)
			file := filepath.Join(t.TempDir(), "env")
			r.run(test.event, "env", file)
			r.line("event command succeeded")
			text, err := os.ReadFile(file)
			relaytest.Check(t, err)
			want := append([]string{"HOOK_TEST_OWN=is kept", "RELAY_OTHER=is kept too"}, test.want...)
			slices.Sort(want)
			if got := string(text); got != strings.Join(want, "\n") {
				t.Errorf("the command has\n%s\nwant\n%s", got, strings.Join(want, "\n"))
			}
		})
	}
}

// quote writes strings like Python's json.dumps(text, ensure_ascii=False).
func TestQuote(t *testing.T) {
	for text, want := range map[string]string{
		"":                     `""`,
		"a/b<>&'":              `"a/b<>&'"`,
		"\"\\":                 `"\"\\"`,
		"\b\f\n\r\t":           `"\b\f\n\r\t"`,
		"\x00\x01\x1f\x7f":     `"\u0000\u0001\u001f` + "\x7f" + `"`,
		"\u0080\u2028\u2029é😀": `"` + "\u0080\u2028\u2029é😀" + `"`,
		"not UTF-8: \xff":      `"not UTF-8: ` + "\uFFFD" + `"`,
	} {
		got := quote(text)
		if got != want {
			t.Errorf("quote(%q) = %s, want %s", text, got, want)
		}
		var back string
		if err := json.Unmarshal([]byte(got), &back); err != nil || back != strings.ToValidUTF8(text, "\uFFFD") {
			t.Errorf("%s unmarshals to %q, %v", got, back, err)
		}
	}
}
