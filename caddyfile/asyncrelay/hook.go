package asyncrelay

import (
	"slices"
	"strings"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// readEventHook returns nil if the command never runs. async-relay has no key
// "enabled" here, and runs the command only for the listed events.
func readEventHook(v value) *caddyfile.EventHook {
	f, ok := v.mapping("enabled", "command", "args", "events", "timeout")
	if !ok {
		return nil
	}
	hook := &caddyfile.EventHook{}
	if v, ok := f.required("command", commandExpected); ok {
		command, _ := v.rawText(commandExpected)
		hook.Command = command
		checkHookText(v, command)
	}
	if v, ok := f.get("args"); ok {
		args, _ := v.list("a list of arguments")
		for _, arg := range args {
			s, ok := arg.scalar()
			if !ok || s.kind == scalarNull {
				arg.mustBe("text")
			}
			checkHookText(arg, s.text)
			hook.Args = append(hook.Args, s.text)
		}
	}
	if v, ok := f.get("events"); ok {
		hook.Events = readEvents(v)
	}
	timeout := caddyfile.DefaultHookTimeout
	if v, ok := f.get("timeout"); ok {
		timeout, _ = v.seconds(false)
	}
	hook.Timeout = known(timeout)

	switch {
	case !f.enabled(true):
		v.warn("ignored: not enabled; async-relay has no such key and runs the command")
		return nil
	case len(hook.Events) == 0:
		v.warn("ignored: no events listed, so the command never runs")
		return nil
	}
	return hook
}

const commandExpected = "the path or name of a command"

func checkHookText(v value, text string) {
	if err := caddyfile.CheckArgument(text); err != nil {
		v.fail("%v", err)
	}
}

func readEvents(v value) (names []string) {
	known := caddyfile.HookEvents()
	what := "one of " + strings.Join(known, ", ")
	events, _ := v.list("a list of events, each " + what)
	for _, event := range events {
		name, ok := event.text(what)
		if ok && !slices.Contains(known, name) {
			event.mustBe(what)
		}
		names = append(names, name)
	}
	return names
}
