package hook

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The types of events.
const (
	BackendFailed          = "backend_failed"
	BackendRecovered       = "backend_recovered"
	AllBackendsUnavailable = "all_backends_unavailable"
)

// Event describes what happened. A command gets it in its environment.
type Event struct {
	Type           string // one of the constants above
	Service        string
	FailureCount   int // consecutive failures of the backend
	AvailableCount int // backends that can be used
	TotalCount     int // backends of the service
	Time           time.Time
	Backend        *Backend // nil for AllBackendsUnavailable
}

// Backend identifies the backend of an event.
type Backend struct {
	Host string
	Port int
	IP   string // empty if unknown
}

// Timestamp formats t in ISO 8601 as Python does, with microseconds.
func Timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000-07:00") }

// The variables and the JSON text are byte for byte those of async-relay's event
// hooks, so that scripts written for async-relay keep working.
const (
	varType      = "RELAY_EVENT_TYPE"
	varService   = "RELAY_SERVICE_NAME"
	varFailures  = "RELAY_FAILURE_COUNT"
	varAvailable = "RELAY_AVAILABLE_COUNT"
	varTotal     = "RELAY_TOTAL_COUNT"
	varTime      = "RELAY_TIMESTAMP"
	varHost      = "RELAY_BACKEND_HOST"
	varPort      = "RELAY_BACKEND_PORT"
	varIP        = "RELAY_BACKEND_IP"
	varJSON      = "RELAY_EVENT_JSON"
)

var variables = []string{varType, varService, varFailures, varAvailable, varTotal, varTime, varHost, varPort, varIP, varJSON}

// environ returns the environment of a command: that of this process, without
// variables of other events, and the variables of e. This process may itself
// have been started by an event hook; then its environment may have a backend,
// which must not reach the command of an event without one.
func (e *Event) environ() []string {
	env := slices.DeleteFunc(os.Environ(), isVariable)
	env = append(env,
		varType+"="+e.Type,
		varService+"="+e.Service,
		varFailures+"="+strconv.Itoa(e.FailureCount),
		varAvailable+"="+strconv.Itoa(e.AvailableCount),
		varTotal+"="+strconv.Itoa(e.TotalCount),
		varTime+"="+Timestamp(e.Time),
		varJSON+"="+e.json())
	if b := e.Backend; b != nil {
		env = append(env, varHost+"="+b.Host)
		if b.Port != 0 {
			env = append(env, varPort+"="+strconv.Itoa(b.Port))
		}
		if b.IP != "" {
			env = append(env, varIP+"="+b.IP)
		}
	}
	return env
}

// isVariable reports whether an entry of an environment is a variable of an event.
func isVariable(entry string) bool {
	name, _, _ := strings.Cut(entry, "=")
	return slices.ContainsFunc(variables, func(v string) bool {
		return v == name || runtime.GOOS == "windows" && strings.EqualFold(v, name)
	})
}

// json returns the event as Python's json.dumps prints it with
// ensure_ascii=False. Package encoding/json writes different spaces and escapes.
func (e *Event) json() string {
	var backend string
	if b := e.Backend; b != nil {
		ip := "null"
		if b.IP != "" {
			ip = quote(b.IP)
		}
		backend = fmt.Sprintf(`, "backend": {"host": %s, "port": %d, "ip": %s}`, quote(b.Host), b.Port, ip)
	}
	return fmt.Sprintf(`{"event": %s, "service": %s, "failure_count": %d, "available_count": %d, "total_count": %d, "timestamp": %s%s}`,
		quote(e.Type), quote(e.Service), e.FailureCount, e.AvailableCount, e.TotalCount, quote(Timestamp(e.Time)), backend)
}

// escapes replaces the characters that must be escaped in a JSON string.
var escapes = func() *strings.Replacer {
	pairs := []string{`"`, `\"`, `\`, `\\`, "\b", `\b`, "\f", `\f`, "\n", `\n`, "\r", `\r`, "\t", `\t`}
	for c := range ' ' {
		pairs = append(pairs, string(c), fmt.Sprintf(`\u%04x`, c)) // has no effect on those above: the first pair wins
	}
	return strings.NewReplacer(pairs...)
}()

// quote returns text as a JSON string with as few escapes as possible.
func quote(text string) string {
	return `"` + escapes.Replace(strings.ToValidUTF8(text, "\uFFFD")) + `"`
}
