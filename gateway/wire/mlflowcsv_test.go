package wire

import (
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

func TestDecodeMLflowCSV(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		mlflowCSV.wantInputs(t, sig, body, want+" frame")
	}
	m := matrix(tensor.FP32, "a:double b:double")
	const two = "x FP32[2,2] 1,2,3,4 rows=2"
	f(m, "a,b\n1,2\n3,4\n", two)
	f(m, "a,b\n1,2\n3,4", two)
	f(m, "a,b\r\n1,2\r\n3,4\r\n", two)
	f(m, "a,b\r1,2\r3,4", two)
	f(m, "\n\r\n\na,b\n\n1,2\n\r\n\n3,4\n\n", two)
	f(m, "\ufeffa,b\n1,2\n3,4\n", two)
	f(m, "\"a\",\"b\"\n\"1\",\"2\"\n3,\"4\"\n", two)
	f(m, "b,a\n2,1\n4,3\n", two)
	f(m, "b,z,a\n2,\"a,\"\"b\"\"\n\",1\n4,,3\n", two)
	f(m, "a,b\n 1 , 2 \n3 ,\t4\n", two)
	f(m, "a,b\n1,2 \n3,4\t\n"+strings.Repeat("\n", fastRoom), two)
	f(m, "a,b\n+1,2.\n3e0,.4e1\n", two)
	f(m, "a,b\n1.0000000,2.00000000000000000000000000000000\n3,4.0000\n", two)
	f(m, "a,b\n,NaN\nnull,NA\nN/A,None\n#N/A,-nan\n",
		"x FP32[4,2] NaN,NaN,NaN,NaN,NaN,NaN,NaN,NaN rows=4")
	f(m, "a,b\ninf,-inf\nInfinity,-Infinity\n",
		"x FP32[2,2] Infinity,-Infinity,Infinity,-Infinity rows=2")
	f(m, "a,b\n0.30000001192092896,-0.123456\n", "x FP32[1,2] 0.3,-0.123456 rows=1")
	f(matrix(tensor.FP32, "a:double b:float?"), "a\n1\n3\n", "x FP32[2,2] 1,NaN,3,NaN rows=2")

	// All types of columns, among them those that the datatype does not tell.
	typed := matrix(tensor.FP64, "i:integer l:long b:boolean d:double")
	f(typed, "i,l,b,d\n-7,9007199254740993,True,\n1.0,1e3,false,0.5\n",
		"x FP64[2,4] -7,9007199254740992,1,NaN,1,1000,0,0.5 rows=2")
	f(typed, "i,l,b,d\n\"-7\",\" 8\",\"FALSE\",\"1\"\n", "x FP64[1,4] -7,8,0,1 rows=1")
	f(matrix(tensor.Bytes, "s:string b:binary"),
		"b,s\nYQ==,\"a \"\"b\"\",\r\n\"\n\"YgA=\", c \n\"YQ==\",é\n",
		`x BYTES[3,2] "a \"b\",\r\n","a"," c ","b\u0000","é","a" rows=3`)
	f(matrix(tensor.FP16, "a b"), "a,b\n1,-2.5\n", "x FP16[1,2] 1,-2.5 rows=1")
	f(matrix(tensor.Int8, "a b"), "a,b\n127,-128\n", "x INT8[1,2] 127,-128 rows=1")
	f(matrix(tensor.Uint64, "a b"), "a,b\n18446744073709551615,\"0\"\n",
		"x UINT64[1,2] 18446744073709551615,0 rows=1")
	f(matrix(tensor.Bool, "a b"), "a,b\nTrue,FALSE\n", "x BOOL[1,2] true,false rows=1")

	// Columns of a matrix without names go by their order.
	x := one(tensor.FP32, -1, 2)
	f(x, "p,q\n1,2\n3,4\n", two)
	f(one(tensor.Int32, -1, 2), "p,p\n1,2\n3,4\n", "x INT32[2,2] 1,2,3,4 rows=2")
	f(one(tensor.Bytes, -1, 2), "p,q\nr,s\n", `x BYTES[1,2] "r","s" rows=1`)
	f(one(tensor.FP32, -1), "any\n1\n2\n", "x FP32[2] 1,2 rows=2")

	mixed := inputs("age:INT64:long name:BYTES:string vip:BOOL:boolean score:FP64:double?")
	f(mixed, "vip,name,age\ntrue,p,1\nFalse,\"q\",\"2\"\n",
		`age INT64[2,1] 1,2; name BYTES[2,1] "p","q"; vip BOOL[2,1] true,false rows=2`)
	f(mixed, "score,vip,name,age\n,true,p,1\n",
		`age INT64[1,1] 1; name BYTES[1,1] "p"; vip BOOL[1,1] true; score FP64[1,1] NaN rows=1`)
}

func TestBadMLflowCSV(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		mlflowCSV.wantRefused(t, sig, body, want)
	}
	m := matrix(tensor.FP32, "a:double b:double")
	f(m, "", "there is no line of names; the model takes 'a', 'b'")
	f(m, "\n\r\n", "there is no line of names")
	f(m, "\ufeff", "there is no line of names")
	f(m, "a,b", "there are no rows")
	f(m, "a,b\n\n", "there are no rows")
	f(m, "a\n1\n", "it is missing 'b'; the model takes 'a', 'b'")
	f(m, "1,2\n3,4\n", "it is missing 'a', 'b'")
	f(m, "a,b,a\n1,2,3\n", "column 'a' stands twice in the columns")
	f(m, "a,\"b", "a value in quotes has no end")
	f(m, "a,b\n1,\xff\n", "the text is not valid UTF-8")
	f(m, "a,b\n1,2\n3\n", "row 1: it has 1 values, there are 2 columns")
	f(m, "a,b\n1,2\n3", "row 1: it has 1 values, there are 2 columns")
	f(m, "a,b\n1,2\n3,4,5\n", "row 1: it has more than the 2 values of its columns")
	f(m, "a,b\n1,2,\n", "row 0: it has more than the 2 values of its columns")
	f(m, "b,a\n1,2\n3\n", "row 1: it has 1 values, there are 2 columns")
	f(m, "b,a\n1,2\n3,4,5\n", "row 1: it has more than the 2 values of its columns")
	f(m, "a,b\n1,2\n3,x\n", `column 'b', row 1: "x" is not a number`)
	f(m, "a,b\n1,2\n3,4x\n", `column 'b', row 1: "4x" is not a number`)
	f(m, "a,b\n1,2\n3,0x1p4\n", `column 'b', row 1: "0x1p4" is not a number`)
	f(m, "a,b\n1,2\n3,1_000\n", `column 'b', row 1: "1_000" is not a number`)
	f(m, "a,b\n1,2\n3,\"4\"5\n", "row 1: expected ',' or the end of the line behind a value")
	f(m, "a,b\n1,2\n3,\"4\n", "row 1: a value in quotes has no end")
	f(m, "a,b\n1,2\n3,1e400\n", "column 'b', row 1: 1e400 is out of range for FP32")
	f(m, "a,b\n1,2\n3,\"1e400\"\n", `column 'b', row 1: "\"1e400\"" is out of range`)
	f(m, "a,b\n1,2\n3,True\n", `column 'b', row 1: "True" is not a number`)
	f(m, "a,b\n1,2\n3;4\n", `column 'a', row 1: "3;4" is not a number`)
	f(m, "a,b\n1,2\n3,"+strings.Repeat("9", 1000)+"\n", "is out of range for FP32")
	f(m, "a,b\n"+strings.Repeat("x", 1<<20), "is not a number")

	// The place is named once.
	err := DecodeMLflowCSV(newRequest(t), m, []byte("a,b\n1,x\n"))
	if want := `bad request: column 'b', row 0: "x" is not a number`; err == nil ||
		err.Error() != want {
		t.Errorf("refused with\n%v, want\n%s", err, want)
	}
}

func TestBadMLflowCSVTypes(t *testing.T) {
	f := func(sig *tensor.Signature, body, want string) {
		t.Helper()
		mlflowCSV.wantRefused(t, sig, body, want)
	}
	typed := matrix(tensor.FP64, "i:integer l:long b:boolean d:double")
	row := func(values string) string { return "i,l,b,d\n" + values + "\n" }
	f(typed, row("1.5,1,true,1"), "column 'i', row 0: 1.5 is not an integer")
	f(typed, row("2147483648,1,true,1"), "column 'i', row 0: 2147483648 is out of range")
	f(typed, row("1,\"9223372036854775808\",true,1"), "column 'l', row 0: \"\\\"92233720368547758")
	f(typed, row(",1,true,1"),
		"column 'i', row 0: the value is missing; only floats may be, and this is integer")
	f(typed, row("1,1,yes,1"), `column 'b', row 0: "yes" must be true or false`)
	f(typed, row("1,1,,1"), "column 'b', row 0: the value is missing")
	f(matrix(tensor.FP32, "a:double b:double?"), "a\n"+strings.Repeat("1\n", 9),
		"inference request batch-size must be <= 8")
	f(matrix(tensor.Bytes, "s:string b:binary"), "b,s\n!,a\n",
		`column 'b', row 0: "!" is not base64`)
	f(matrix(tensor.Bytes, "s:string t:string"), "t,s\na,\n",
		"column 's', row 0: the value is missing; only floats may be, and this is string")
	f(matrix(tensor.Bytes, "s:string t:string"), "t,s\na,\"\"\n",
		"column 's', row 0: the value is missing; only floats may be, and this is string")
	f(matrix(tensor.Bytes, "s:string t:string"), "t,s\na,NA\n",
		"column 's', row 0: the value is missing; only floats may be, and this is string")

	mixed := inputs("age:INT64:long name:BYTES:string vip:BOOL:boolean")
	f(mixed, "vip,name,age\ntrue,p,\n",
		"input 'age', row 0: the value is missing; only floats may be, and this is long")
	f(mixed, "vip,name,age\ntrue,p,1.5\n", "input 'age', row 0: 1.5 is not an integer for INT64")
	f(mixed, "vip,name,age\ntrue,p,1 2\n", `input 'age', row 0: "1 2" is not a number`)
	f(mixed, "vip,name,age\n1,p,1\n", `input 'vip', row 0: "1" must be true or false`)
	f(mixed, "vip,name\ntrue,p\n", "it is missing 'age'")
	f(mixed, "vip,vip,name,age\n", "input 'vip' stands twice in the columns")
}
