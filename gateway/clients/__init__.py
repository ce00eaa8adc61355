"""The clients behind `mqlift pub` and `mqlift sub`: small, for trying and scripting, on other people's libraries."""
