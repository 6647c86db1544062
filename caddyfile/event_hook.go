package caddyfile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// EventHook holds the command to run on events. The command gets the details of
// the event in its environment. It is run directly, without a shell.
type EventHook struct {
	// The command: a path, or a name that is searched in PATH. Required. May
	// contain `{env.*}` and `{file.*}` placeholders.
	Command string `json:"command,omitempty"`

	// The arguments of the command. Each element is passed as one argument. May
	// contain `{env.*}` and `{file.*}` placeholders. Default: none.
	Args []string `json:"args,omitempty"`

	// The events that run the command: `backend_failed` (the second strike of a
	// backend), `backend_recovered` (its first success after that) and
	// `all_backends_unavailable` (the last available backend failed). Default:
	// all.
	Events []string `json:"events,omitempty"`

	// The time limit of the command. A command that exceeds it is killed with
	// its whole process group. Must be greater than zero. Default: 30s.
	Timeout *caddy.Duration `json:"timeout,omitempty"`
}

// EventHookOptions holds the settings of an event hook with every default filled
// in.
type EventHookOptions struct {
	Command string
	Args    []string
	Events  []string // at least one, without duplicates
	Timeout time.Duration
}

// HookEvents returns all events, in the order in which an outage causes them.
func HookEvents() []string { return slices.Clone(hookEvents) }

var hookEvents = []string{"backend_failed", "backend_recovered", "all_backends_unavailable"}

func (h *EventHook) options() *EventHookOptions {
	if h == nil {
		return nil
	}
	o := &EventHookOptions{
		Command: h.Command,
		Args:    h.Args,
		Timeout: durationOr(h.Timeout, DefaultHookTimeout),
	}
	for _, event := range hookEvents {
		if len(h.Events) == 0 || slices.Contains(h.Events, event) {
			o.Events = append(o.Events, event)
		}
	}
	return o
}

// validate reports the problems that the tables of settings cannot find.
func (h *EventHook) validate(fail func(field string, err error)) {
	if h == nil {
		return
	}
	fail("event_hook.command", checkCommand(h.Command))
	for _, arg := range h.Args {
		fail("event_hook.args", CheckArgument(arg))
	}
	for _, event := range h.Events {
		fail("event_hook.events", checkEvent(event))
	}
}

const commandExpected = "the path or name of a command"

func checkCommand(command string) error {
	if strings.TrimSpace(command) == "" {
		return fmt.Errorf("must be %s, got %q", commandExpected, command)
	}
	return CheckArgument(command)
}

// CheckArgument rejects an argument of a command that has NUL characters, which no
// system can pass to it.
func CheckArgument(text string) error {
	if strings.Contains(text, "\x00") {
		return fmt.Errorf("must not contain a NUL character, got %s", Quoted(text))
	}
	return nil
}

func checkEvent(event string) error {
	if !slices.Contains(hookEvents, event) {
		return fmt.Errorf("must be one of %s, got %s", strings.Join(hookEvents, ", "), Quoted(event))
	}
	return nil
}
