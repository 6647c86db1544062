package caddyfile

import (
	"slices"
	"strings"
)

// readEventHook returns nil if the command never runs. async-relay has no key
// "enabled" here, and runs the command only for the listed events.
func readEventHook(v value) *EventHook {
	f, ok := v.mapping("enabled", "command", "args", "events", "timeout")
	if !ok {
		return nil
	}
	hook := &EventHook{}
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
	timeout := DefaultHookTimeout
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

func checkHookText(v value, text string) {
	if err := checkArgument(text); err != nil {
		v.fail("%v", err)
	}
}

func readEvents(v value) (names []string) {
	what := "one of " + strings.Join(hookEvents, ", ")
	events, _ := v.list("a list of events, each " + what)
	for _, event := range events {
		name, ok := event.text(what)
		if ok && !slices.Contains(hookEvents, name) {
			event.mustBe(what)
		}
		names = append(names, name)
	}
	return names
}
