package notify

import (
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func event(id string) Event {
	return Event{ID: id, Type: BeforeStep, Time: time.Now(), Data: Data{
		Rollout:  &Rollout{ID: "fraud-17", Stable: "3", Canary: "4", Step: 2, Weight: 12.5},
		Endpoint: "fraud", Model: "fraud", Reason: "errors: no harm",
		Sentence: "Version 4 goes from 5 % to 12.5 %.",
		Link:     "http://millrace.example/rollouts/fraud-17"}}
}

func alarmEvent(id string) Event {
	began := time.Date(2026, 11, 25, 21, 0, 0, 0, time.UTC)
	return Event{ID: id, Type: AlarmResolved, Time: began.Add(time.Hour), Data: Data{
		Alarm: &Alarm{ID: "fraud/3", Monitor: "fraud", Version: "4", Kind: "drift",
			Features: []string{"amount", "age"}, Began: began, Raised: began.Add(time.Minute),
			By: "ana", Resolution: "by ben"},
		Endpoint: "fraud", Model: "fraud", Reason: "amount, age left the reference",
		Sentence: "endpoint fraud: drift alarm fraud/3 is over: by ben"}}
}

// receiver returns one at a URL of this machine, with short pauses.
func receiver(url string) Receiver {
	r := DefaultReceiver()
	r.Name, r.Secret = "approvals", goldenSecret
	r.Fetch.Origin, r.Fetch.Allow = url, []string{"127.0.0.0/8"}
	r.Fetch.Backoff = 10 * time.Millisecond
	return r
}

// serve starts a listener, which the test ends.
func serve(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return s.URL
}

func TestPayload(t *testing.T) {
	e := event("x")
	e.Time = time.Date(2026, 11, 25, 22, 0, 0, 0, time.FixedZone("", 3600))
	e.Data.Sentence = "4 < 5"
	f := func(e Event, want string) {
		t.Helper()
		if got, err := payload(Webhook, e); err != nil || string(got) != want {
			t.Errorf("got %s, %v\nwant %s", got, err, want)
		}
		var back Event
		if err := json.Unmarshal([]byte(want), &back); err != nil ||
			facts(back.Data)[0] != facts(e.Data)[0] {
			t.Errorf("it is read as %+v, %v", back, err)
		}
	}
	f(e, `{"type":"rollout.before_step","timestamp":"2026-11-25T21:00:00Z","data":{`+
		`"rollout":"fraud-17","stable":"3","canary":"4","step":2,"weight":12.5,`+
		`"endpoint":"fraud","model":"fraud","reason":"errors: no harm","sentence":"4 < 5",`+
		`"link":"http://millrace.example/rollouts/fraud-17"}}`)
	f(alarmEvent("x"), `{"type":"alarm.resolved","timestamp":"2026-11-25T22:00:00Z","data":{`+
		`"alarm":"fraud/3","monitor":"fraud","version":"4","kind":"drift",`+
		`"features":["amount","age"],"began":"2026-11-25T21:00:00Z",`+
		`"raised":"2026-11-25T21:01:00Z","acknowledged_by":"ana","resolution":"by ben",`+
		`"endpoint":"fraud","model":"fraud","reason":"amount, age left the reference",`+
		`"sentence":"endpoint fraud: drift alarm fraud/3 is over: by ben","link":""}}`)
}

// Texts of any length fit, and those of the event stay as they were.
func TestPayloadSize(t *testing.T) {
	e, a := event("x"), alarmEvent("x")
	for _, text := range []string{strings.Repeat("long ", 9000), strings.Repeat("\x01", 9000),
		strings.Repeat("ü€", 9000), "ok\xff\xfe"} {
		e.Data.Sentence, e.Data.Reason, e.Data.Canary, e.Data.Link = text, text, text, text
		e.Data.Stable, e.Data.Model, e.Data.Endpoint, e.Data.Rollout.ID = text, text, text, text
		a.Data.Sentence, a.Data.Reason, a.Data.Version, a.Data.Monitor = text, text, text, text
		a.Data.Features = slices.Repeat([]string{text}, 20)
		a.Data.By, a.Data.Resolution, a.Data.Kind, a.Data.Alarm.ID = text, text, text, text
		for _, f := range []Format{Webhook, Slack, Teams} {
			for _, e := range []Event{e, a} {
				got, err := payload(f, e)
				var v map[string]any
				if err != nil || len(got) >= 20_000 || json.Unmarshal(got, &v) != nil {
					t.Errorf("%s: %d bytes, %v: %.100s", f, len(got), err, got)
				}
			}
		}
		if e.Data.Canary != text || a.Data.Features[0] != text || len(a.Data.Features) != 20 {
			t.Error("to write an event has changed it")
		}
	}
}

func TestValidate(t *testing.T) {
	f := func(change func(*Receiver), want string) {
		t.Helper()
		r := receiver("http://127.0.0.1")
		change(&r)
		err := r.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter") {
			t.Errorf("a secret shows: %v", err)
		}
	}
	f(func(*Receiver) {}, "")
	f(func(r *Receiver) { r.Secret = "" }, "")
	f(func(r *Receiver) { r.Format, r.Secret = Slack, "" }, "")
	f(func(r *Receiver) { r.Name = "" }, "name: is missing")
	f(func(r *Receiver) { r.Format = "pager" }, `format: "pager"; webhook, slack and teams`)
	f(func(r *Receiver) { r.Format = Teams }, "secret: teams checks no signature")
	f(func(r *Receiver) { r.Secret = "whsec_hunter!!" }, "secret: it has to be")
	f(func(r *Receiver) { r.Fetch.Origin = "file:///etc" }, "uri: the scheme")

	g := func(change func(*Event), want string) {
		t.Helper()
		e := event("x")
		change(&e)
		if err := e.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	g(func(e *Event) { e.ID = "" }, "no id")
	g(func(e *Event) { e.Type = "" }, "no type")
	g(func(e *Event) { e.Time = time.Time{} }, "no time")
	g(func(e *Event) { e.Data.Weight = math.NaN() }, "no number")
	g(func(e *Event) { e.Data.Rollout = nil }, "one rollout or alarm")
	g(func(e *Event) { e.Data.Alarm = alarmEvent("x").Data.Alarm }, "one rollout or alarm")
}

// TestChat looks at what chats get: names are never taken for markup.
func TestChat(t *testing.T) {
	e := event("x")
	e.Data.Sentence = "<!channel> *bold* & [a](b)"
	e.Data.Canary = "<http://evil|4>"
	e.Data.Link = "http://m.example/?a=1&b=<|>"
	e.Data.Reason = ""
	got, err := payload(Slack, e)
	if err != nil {
		t.Fatal(err)
	}
	var message struct {
		Text   string
		Blocks []struct {
			Type   string
			Text   struct{ Type, Text string }
			Fields []struct{ Type, Text string }
		}
	}
	if err := json.Unmarshal(got, &message); err != nil {
		t.Fatal(err)
	}
	if message.Text != "&lt;!channel&gt; *bold* &amp; [a](b)" || len(message.Blocks) != 3 {
		t.Fatalf("the message is %s", got)
	}
	head, fields, link := message.Blocks[0], message.Blocks[1].Fields, message.Blocks[2]
	if head.Text.Type != "plain_text" || head.Text.Text != e.Data.Sentence || len(fields) != 6 ||
		fields[3].Text != "Canary: "+e.Data.Canary || fields[3].Type != "plain_text" ||
		fields[5].Text != "Weight: 12.5 %" {
		t.Errorf("the message is %s", got)
	}
	if want := "<http://m.example/?a=1&amp;b=%3C%7C%3E|Open in millrace>"; link.Text.Text != want {
		t.Errorf("the link is %s", link.Text.Text)
	}

	if got, err = payload(Teams, e); err != nil {
		t.Fatal(err)
	}
	var card struct {
		Type        string
		Attachments []struct {
			ContentType string
			Content     struct {
				Type, Version string
				Body          []struct {
					Type    string
					Inlines []struct{ Type, Text string }
				}
				Actions []struct{ Type, URL string }
			}
		}
	}
	if err := json.Unmarshal(got, &card); err != nil {
		t.Fatal(err)
	}
	c := card.Attachments[0].Content
	if card.Type != "message" || c.Type != "AdaptiveCard" || len(c.Body) != 7 ||
		card.Attachments[0].ContentType != "application/vnd.microsoft.card.adaptive" ||
		c.Body[0].Inlines[0].Text != e.Data.Sentence ||
		c.Body[4].Inlines[1].Text != e.Data.Canary ||
		c.Actions[0].Type != "Action.OpenUrl" || c.Actions[0].URL != e.Data.Link {
		t.Errorf("the card is %s", got)
	}
	for _, b := range c.Body {
		if b.Type != "RichTextBlock" {
			t.Errorf("a block is %s", b.Type)
		}
	}
}

// TestChatAlarm looks at what Slack gets of an alarm: no more fields than it takes.
func TestChatAlarm(t *testing.T) {
	got, err := payload(Slack, alarmEvent("x"))
	if err != nil {
		t.Fatal(err)
	}
	var message struct {
		Text   string
		Blocks []struct{ Fields []struct{ Text string } }
	}
	if err := json.Unmarshal(got, &message); err != nil || len(message.Blocks) != 2 {
		t.Fatalf("the message is %s, %v", got, err)
	}
	var fields []string
	for _, f := range message.Blocks[1].Fields {
		fields = append(fields, f.Text)
	}
	want := []string{"Monitor: fraud", "Endpoint: fraud", "Model: fraud", "Version: 4",
		"Kind: drift", "Features: amount, age", "Began: 2026-11-25T21:00:00Z",
		"Reason: amount, age left the reference", "Acknowledged by: ana", "Resolution: by ben"}
	if message.Text != alarmEvent("x").Data.Sentence || !slices.Equal(fields, want) {
		t.Errorf("the message is %s", got)
	}
}
