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

// Types of events.
const (
	BackendFailed          = "backend_failed"
	BackendRecovered       = "backend_recovered"
	AllBackendsUnavailable = "all_backends_unavailable"
)

// Event is what a command is told of.
type Event struct {
	Type           string // one of the types above
	Service        string
	FailureCount   int // failures of the backend in a row
	AvailableCount int // backends that can be used
	TotalCount     int
	Time           time.Time
	Backend        *Backend // nil if it is about no backend in particular
}

// Backend is whom an event is about.
type Backend struct {
	Host string
	Port int
	IP   string // empty if it is not known
}

// Timestamp is ISO 8601 as Python writes it.
func Timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000-07:00") }

// Names and JSON are those of async-relay's event hooks, to the byte: scripts
// that were written for them go on as they are.
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

// environ is the environment of a command: this process' own and the event.
// Variables of an event that this process was itself started for are left out,
// or a backend of that one would show in an event that has none.
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
		env = append(env, varHost+"="+b.Host, varPort+"="+strconv.Itoa(b.Port))
		if b.IP != "" {
			env = append(env, varIP+"="+b.IP)
		}
	}
	return env
}

// isVariable says whether an entry of an environment is one of an event's.
func isVariable(entry string) bool {
	name, _, _ := strings.Cut(entry, "=")
	return slices.ContainsFunc(variables, func(v string) bool {
		return v == name || runtime.GOOS == "windows" && strings.EqualFold(v, name)
	})
}

// json is the event as Python's json.dumps prints it with ensure_ascii off:
// package encoding/json has other spaces and other escapes.
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

// escapes are for what a JSON string can't hold as it is.
var escapes = func() *strings.Replacer {
	pairs := []string{`"`, `\"`, `\`, `\\`, "\b", `\b`, "\f", `\f`, "\n", `\n`, "\r", `\r`, "\t", `\t`}
	for c := range ' ' {
		pairs = append(pairs, string(c), fmt.Sprintf(`\u%04x`, c)) // the first of two pairs counts
	}
	return strings.NewReplacer(pairs...)
}()

// quote is a JSON string with no more escapes than there must be.
func quote(text string) string {
	return `"` + escapes.Replace(strings.ToValidUTF8(text, "\uFFFD")) + `"`
}
