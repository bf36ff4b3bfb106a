package notify

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// fact is a line below the sentence of a notice.
type fact struct{ name, value string }

// facts are at most ten.
func facts(d Data) []fact {
	var all []fact
	if a := d.Alarm; a != nil {
		all = []fact{{"Monitor", a.Monitor}, {"Endpoint", d.Endpoint}, {"Model", d.Model},
			{"Version", a.Version}, {"Kind", a.Kind},
			{"Features", shorten(strings.Join(a.Features, ", "), maxText)},
			{"Began", a.Began.UTC().Format(time.RFC3339)}, {"Reason", d.Reason},
			{"Acknowledged by", a.By}, {"Resolution", a.Resolution}}
	}
	if r := d.Rollout; r != nil {
		all = []fact{{"Endpoint", d.Endpoint}, {"Model", d.Model}, {"Stable", r.Stable},
			{"Canary", r.Canary}, {"Step", strconv.Itoa(r.Step)},
			{"Weight", strconv.FormatFloat(r.Weight, 'g', 4, 64) + " %"}, {"Reason", d.Reason}}
	}
	return slices.DeleteFunc(all, func(f fact) bool { return f.value == "" })
}

type object map[string]any

// slackEscape keeps texts from mentioning people and making links.
var slackEscape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// linkEscape keeps a URL from ending its link.
var linkEscape = strings.NewReplacer("&", "&amp;", "<", "%3C", ">", "%3E", "|", "%7C")

// slack writes a message of Block Kit. Texts are plain ones: names of versions come
// from others, and must not be taken for markup.
func slack(e Event) object {
	plain := func(text string) object {
		return object{"type": "plain_text", "text": text, "emoji": false}
	}
	var fields []object // at most ten, of 2000 characters
	for _, f := range facts(e.Data) {
		fields = append(fields, plain(f.name+": "+f.value))
	}
	blocks := []object{
		{"type": "section", "text": plain(headline(e))},
		{"type": "section", "fields": fields},
	}
	if e.Data.Link != "" {
		blocks = append(blocks, object{"type": "section", "text": object{"type": "mrkdwn",
			"text": "<" + linkEscape.Replace(e.Data.Link) + "|Open in millrace>"}})
	}
	// Text is what notifications show.
	return object{"text": slackEscape.Replace(headline(e)), "blocks": blocks}
}

func headline(e Event) string {
	if e.Data.Sentence != "" {
		return e.Data.Sentence
	}
	if r := e.Data.Rollout; r != nil {
		return e.Type + " " + r.ID
	}
	return e.Type + " " + e.Data.Alarm.ID
}

// teams writes a message with an Adaptive Card. Text runs know no Markdown: names of
// versions come from others, and must not be taken for markup.
func teams(e Event) object {
	run := func(text, weight string) object {
		return object{"type": "TextRun", "text": text, "weight": weight}
	}
	body := []object{{"type": "RichTextBlock", "inlines": []object{run(headline(e), "Bolder")}}}
	for _, f := range facts(e.Data) {
		body = append(body, object{"type": "RichTextBlock", "spacing": "None",
			"inlines": []object{run(f.name+": ", "Bolder"), run(f.value, "Default")}})
	}
	card := object{"$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
		"type": "AdaptiveCard", "version": "1.4", "body": body}
	if e.Data.Link != "" {
		card["actions"] = []object{{"type": "Action.OpenUrl", "title": "Open in millrace",
			"url": e.Data.Link}}
	}
	return object{"type": "message", "attachments": []object{{
		"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": nil,
		"content": card}}}
}
