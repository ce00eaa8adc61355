# Terraform: the table of `state: dynamodb://mqlift-state`, for gateways that may not create it (provision: never).
resource "aws_dynamodb_table" "mqlift_state" {
  name                        = "mqlift-state"
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "kind"
  range_key                   = "key"
  deletion_protection_enabled = true

  point_in_time_recovery {
    enabled = true
  }

  attribute {
    name = "kind"
    type = "S"
  }

  attribute {
    name = "key"
    type = "S"
  }

  attribute {
    name = "expires_at"
    type = "N"
  }

  global_secondary_index {
    name            = "expiry"
    hash_key        = "kind"
    range_key       = "expires_at"
    projection_type = "KEYS_ONLY"
  }
}
