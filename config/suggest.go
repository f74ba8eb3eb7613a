package config

import "github.com/slackerd/slacker/suggest"

func lookup(key string) *setting {
	for i := range settings {
		if settings[i].key == key {
			return &settings[i]
		}
	}
	return nil
}

func allKeys() []string {
	keys := make([]string, len(settings))
	for i := range settings {
		keys[i] = settings[i].key
	}
	return keys
}

// didYouMean returns a suggestion to append to a message, or nothing.
func didYouMean(got string, known []string) string {
	near := suggest.Nearest(got, known)
	if near == "" {
		return ""
	}
	return ": did you mean " + near + "?"
}
