package measure

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/drift/sketch"
)

var columns = []string{"amount", "items", "country", "new", "x.0", "row", "log", "$env"}

// row is one of the columns.
func row(amount float64, items int64, country string) []sketch.Value {
	return []sketch.Value{sketch.Number(amount), sketch.Integer(items),
		sketch.Text([]byte(country)), sketch.Boolean(true), sketch.Number(0.5), sketch.Integer(7),
		sketch.Number(9), sketch.Number(3)}
}

func TestValue(t *testing.T) {
	f := func(expression string, want float64) {
		t.Helper()
		e, err := New(expression, columns, row(0, 0, ""))
		if err != nil {
			t.Error(err)
			return
		}
		for range 2 { // the second finds the machine used
			if got, ok := e.Value(row(12, 4, "DE")); !ok || math.Abs(got-want) > 1e-12 {
				t.Errorf("%s: %v, %v, want %v", expression, got, ok, want)
			}
		}
	}
	f("amount / items", 3)
	f("amount", 12)
	f("-items + 2 * (amount - 1)", 18)
	f(`row["x.0"] * 2 + row["row"]`, 8)
	f(`row["log"] + log(exp(2)) + sqrt(16)`, 15)
	f("log + log(1)", 9)
	f(`row["$env"] + $env`, 6)
	f("amount > 10", 1)
	f("amount > 10 and not new", 0)
	f(`country in ["DE", "FR"]`, 1)
	f(`country not in ["DE", "FR"]`, 0)
	f(`lower(country) == "de" ? 1 : amount`, 1)
	f(`country != "DE" ? 1 : amount`, 12)
	f(`if new { amount } else { 0 }`, 12)
	f("int(items) % 3", 1)
	f("items ** 2", 16)
	f("max(amount, items, 20) + min(1, items) + len(country)", 23)
	f("abs(-3) + ceil(0.2) + floor(1.9) + round(2.5)", 8)
	f(`float("2.5") + (country startsWith "D" ? 1 : 0)`, 3.5)
	f(`country + "!" == "DE!"`, 1)
	f("amount | max(20)", 20)
	f("1", 1)
}

// Rows without a finite number have none, and those after them are not touched by it.
func TestNoValue(t *testing.T) {
	f := func(expression string, row []sketch.Value) {
		t.Helper()
		e, err := New(expression, columns, row0)
		if err != nil {
			t.Error(err)
			return
		}
		if got, ok := e.Value(row); ok {
			t.Errorf("%s: %v", expression, got)
		}
		if got, ok := e.Value(row0); !ok {
			t.Errorf("%s: %v, %v after a row without", expression, got, ok)
		}
	}
	missing := row(1, 1, "1")
	missing[1], missing[2] = sketch.Missing(), sketch.Missing()
	f("amount / items", row(1, 0, ""))
	f("amount / items", row(0, 0, ""))
	f("amount / items", missing)
	f("amount", row(math.NaN(), 1, ""))
	f("amount", row(math.Inf(1), 1, ""))
	f("log(amount)", row(-1, 1, ""))
	f("len(country)", missing)
	f("int(amount) % int(items)", row(1, 0, ""))
	f("float(country)", row(1, 1, "one"))
	f("amount > 2 ? country : items", row(3, 1, "text"))
}

var row0 = row(1, 1, "1")

func TestFaults(t *testing.T) {
	f := func(expression, want string) {
		t.Helper()
		_, err := New(expression, columns, row0)
		if !errors.Is(err, ErrExpression) || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %s", expression, err, want)
		}
	}
	f("", "unexpected")
	f("amount +", "at character 8")
	f("amount + itms", `at character 10: there is no column "itms"; there are amount, items, cou`)
	f(`1 + row["x.1"]`, `at character 5: there is no column "x.1"`)
	f("x.0", "at character 2: unexpected token")
	f(`row[country]`, "is written row")
	f("row", `row["COLUMN"]`)
	f("x.y", "is written row")
	f("country", "it gives string, must give a number")
	f("[amount]", "must give a number")
	f("country * 2", "mismatched types string and int")
	f(`amount > "a"`, "mismatched types")
	f("log(country)", "cannot use string")
	f("log(1, 2)", "too many arguments")
	f("sum(map(1..1000000, # * 2))", "no function sum here; there are abs, ceil, exp, float")
	f("now()", "no function now")
	f("foo(1)", "no function foo")
	f("amount in 1..1000000", ".. is not allowed here; operators are")
	f(`country matches "(a+)+"`, "matches is not allowed")
	f("amount ?? 1", "?? is not allowed")
	f("let a = 1; a", "is not allowed here: an expression is made of")
	f("1; 2", "is not allowed here")
	f("nil", "nil is not allowed")
	f(`{"a": 1}`, "is not allowed here")
	f("country[1:2]", "is not allowed here")
	f(strings.Repeat("1+", MaxLength/2)+"1", "1001 bytes, 1000 at most")
	if _, err := New("a", nil, nil); err == nil || !strings.Contains(err.Error(), "are none") {
		t.Errorf("without columns: %v", err)
	}
	many := make([]string, 500)
	if _, err := New("a", many, make([]sketch.Value, 500)); err == nil || len(err.Error()) > 300 {
		t.Errorf("of many columns: %v", err)
	}
}

// Without columns all is found but names and types.
func TestCheck(t *testing.T) {
	f := func(expression string, ok bool) {
		t.Helper()
		if err := Check(expression); (err == nil) != ok {
			t.Errorf("%s: %v", expression, err)
		}
	}
	f(`anything / row["x.0"]`, true)
	f("anything /", false)
	f("median([1])", false)
	f("1..3", false)
}

// No text is more than an error, and no row is.
func FuzzExpression(f *testing.F) {
	for _, seed := range []string{"amount / items", `row["x.0"] > 1 ? 2 : int(country) % 0`,
		`country in ["a", 1, nil]`, "max()", "min([])", "-new", "len(1)", "(((", "1 | log()",
		`max(country, "a") + trim(country, "1")`, "round()", "abs(country)", "not amount"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, expression string) {
		e, err := New(expression, columns, row0)
		if err != nil {
			if !errors.Is(err, ErrExpression) {
				t.Errorf("%q: %v", expression, err)
			}
			return
		}
		if err := Check(expression); err != nil {
			t.Errorf("%q: %v", expression, err)
		}
		if x, ok := e.Value(row(12, 0, "DE")); ok && (math.IsNaN(x) || math.IsInf(x, 0)) {
			t.Errorf("%q: %v", expression, x)
		}
	})
}

// Only numbers take memory, as the library holds each in an interface.
func TestAllocations(t *testing.T) {
	f := func(expression string, most float64) {
		t.Helper()
		e, err := New(expression, columns, row0)
		if err != nil {
			t.Fatal(err)
		}
		r := row(12, 4, "DE")
		if got := testing.AllocsPerRun(100, func() { e.Value(r) }); got > most {
			t.Errorf("%s: %v allocations, %v at most", expression, got, most)
		}
	}
	f("amount / items", 3)
	f("amount > 1000", 1)
	f(`country == "FR" or new`, 0)
	f(`country in ["DE", "FR"]`, 0)
}

func BenchmarkValue(b *testing.B) {
	for _, expression := range []string{"amount / items", `country in ["DE", "FR"]`,
		`log(amount) * 2 + row["x.0"] > 3 and country == "DE"`} {
		b.Run(expression, func(b *testing.B) {
			e, err := New(expression, columns, row0)
			if err != nil {
				b.Fatal(err)
			}
			r := row(12, 4, "DE")
			b.ReportAllocs()
			for b.Loop() {
				e.Value(r)
			}
		})
	}
}
