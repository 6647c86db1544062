package caddyfile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// EventHook says which command to run on which events. What happened is in the
// environment of the command, and no shell is involved.
type EventHook struct {
	// The command: a path, or a name to be found in PATH. May contain
	// `{env.*}` and `{file.*}` placeholders.
	Command string `json:"command,omitempty"`

	// The arguments of the command, one each, as they are. May contain
	// `{env.*}` and `{file.*}` placeholders.
	Args []string `json:"args,omitempty"`

	// The events to run it on, of `backend_failed` (second strike),
	// `backend_recovered` (its first success since) and
	// `all_backends_unavailable` (the last one went down). Default: all.
	Events []string `json:"events,omitempty"`

	// How long the command may take; then it is ended, with all that it
	// started. Must be greater than zero. Default: 30s.
	Timeout *caddy.Duration `json:"timeout,omitempty"`
}

// EventHookOptions are the settings of an event hook with every default filled
// in.
type EventHookOptions struct {
	Command string
	Args    []string
	Events  []string // at least one, none twice
	Timeout time.Duration
}

// hookEvents are all events there are, in the order of a backend's life.
var hookEvents = []string{"backend_failed", "backend_recovered", "all_backends_unavailable"}

func (h *EventHook) options() *EventHookOptions {
	if h == nil {
		return nil
	}
	o := &EventHookOptions{
		Command: h.Command,
		Args:    h.Args,
		Timeout: orDefault(h.Timeout, DefaultHookTimeout),
	}
	for _, event := range hookEvents {
		if len(h.Events) == 0 || slices.Contains(h.Events, event) {
			o.Events = append(o.Events, event)
		}
	}
	return o
}

// problems are those that Validate can not find in the tables of settings.
func (h *EventHook) problems(fail func(field string, err error)) {
	if h == nil {
		return
	}
	fail("event_hook.command", checkCommand(h.Command))
	for _, arg := range h.Args {
		fail("event_hook.args", checkArgument(arg))
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
	return checkArgument(command)
}

// checkArgument refuses what no system passes on to a command.
func checkArgument(text string) error {
	if strings.Contains(text, "\x00") {
		return fmt.Errorf("must not contain a NUL character, got %s", quoted(text))
	}
	return nil
}

func checkEvent(event string) error {
	if !slices.Contains(hookEvents, event) {
		return fmt.Errorf("must be one of %s, got %s", strings.Join(hookEvents, ", "), quoted(event))
	}
	return nil
}
