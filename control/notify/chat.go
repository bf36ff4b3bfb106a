package notify

import (
	"strconv"
	"strings"
)

// fact is a line below the sentence of a notice.
type fact struct{ name, value string }

func facts(r Rollout) []fact {
	all := []fact{{"Endpoint", r.Endpoint}, {"Model", r.Model}, {"Stable", r.Stable},
		{"Canary", r.Canary}, {"Step", strconv.Itoa(r.Step)},
		{"Weight", strconv.FormatFloat(r.Weight, 'g', 4, 64) + " %"}, {"Reason", r.Reason}}
	var said []fact
	for _, f := range all {
		if f.value != "" {
			said = append(said, f)
		}
	}
	return said
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
	var fields []object // at most 10 of 2000 characters
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
	return e.Type + " " + e.Data.Rollout
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
